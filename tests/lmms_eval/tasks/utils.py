"""What the local task asks about a clip."""


def doc_to_visual(doc):
    return [doc["video"]]


def process_results(doc, results):
    return {"right": float(results[0] == doc["answer"])}
