"""The whole method in eager PyTorch: the specification that runs.

Read along the data's way, ``segments``, ``plan``, ``merging``, ``selection``, all but the last on
``clustering``, this is PruneVid (Huang et al., ACL Findings 2025). It is written to be read and to
be compared against, on any device. It is also what runs where there is no GPU, so it takes many
small frames and groups at once, because calls cost more than they do then, and large frames one by
one, which stay in the cache and need little memory in the computing dtype. How many it takes
changes no bit of a result.

Two things differ from the authors' released code, both on purpose:

* That code adds random noise to densities to break ties. Here the lower index wins, so equal input
  gives equal output: point ``j`` counts as denser than ``i`` when ``rho[j] > rho[i]``, or when they
  are equal and ``j < i``.
* All decisions are made in float32 (float64 for float64 input), whatever the dtype of the features;
  only the merged tokens are rounded to it. The released code rounds every intermediate to the
  features' dtype.

Where the released code fails or is undefined, this is the definition:

==================================================  ============================================
input                                               result
==================================================  ============================================
fewer points than neighbours (T < 7, say)           ``k = min(num_neighbors, n)``
``int(T * segment_ratio) == 0``                     one cluster, hence one segment
``int(n * cluster_ratio) == 0``, n large            one cluster
T = 1                                               one segment, every token dynamic
a segment of one frame                              every token dynamic
a group of no token                                 no merged token
a budget below one token for each group             neighbouring groups share a token
features that are not finite                        ValueError naming video and first bad frame
==================================================  ============================================

The same input gives the same output, bit for bit, on a GPU too. Matrix products stay out of the
merge: where a user allows TF32 or bfloat16 for them, decisions would change.
"""

from prunevid_kernels.reference.clustering import (
    cluster_points,
    cluster_sets,
    dpc_knn,
    point_distances,
)
from prunevid_kernels.reference.floats import first_nonfinite_frame, nonfinite_error
from prunevid_kernels.reference.merging import (
    average_sources,
    carry_out,
    merge_video,
    merge_videos,
)
from prunevid_kernels.reference.plan import MergePlan, plan_merge, spend_budget
from prunevid_kernels.reference.segments import refine_labels, segment_frames
from prunevid_kernels.reference.selection import compact, score_visual_tokens, select_tokens

__all__ = [
    "MergePlan",
    "average_sources",
    "carry_out",
    "cluster_points",
    "cluster_sets",
    "compact",
    "dpc_knn",
    "first_nonfinite_frame",
    "merge_video",
    "merge_videos",
    "nonfinite_error",
    "plan_merge",
    "point_distances",
    "refine_labels",
    "score_visual_tokens",
    "segment_frames",
    "select_tokens",
    "spend_budget",
]
