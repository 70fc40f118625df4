"""Making models: a checkpoint becomes a bundle that is verified, small and fast.

::

    exporting.py           `export`, all of it in order; options, staging
    cached_bundles.py      the bundle of a hub id, for `run --model org/name`
    checkpoint.py          MODEL -> a checkpoint that is what it should be
    hub.py                 a hub id -> its commit's files
    weights.py             its weights, converted and named as the model wants them
    architectures.py       which architectures can be exported
    reference.py           the original as transformers runs it
    parity.py              batchqa's answers with the plain graph, compared with the original's
    abstention.py          whether a model was trained to say "no answer"
    threshold.py           the no-answer threshold, fitted on labelled rows
    builtin_passages.py    the package's own texts: plainly answerable and plainly unanswerable pairs
    bundle_languages.py    the languages of a bundle, and the texts that it was verified on
    variants.py            a variant per precision: made, compared, judged
    verify.py              a variant's answers, compared with the original's
    limits.py              when a variant is good enough
    stages.py              finished work, kept for the next export
    graphs.py              checkpoint -> ONNX graph; fused attention; float16
    calibration_data.py    rows as batches, and what the graph's products read on them
    editing.py             an ONNX graph, taken apart and put together again
    quantize.py            matrices as int8, rounded well; the graph that computes in float32 with them
    smoothquant.py         large channels divided, and their weights multiplied, before both are rounded
    per_token_int8.py      onnxruntime's graph with int8 products, each token scaled by itself
    int8_openvino.py       the same for OpenVINO
    attention_openvino.py  attention in the operators that OpenVINO is fastest with
    bundle_card.py         the model card
    extras.py              the extra `export`: what is imported, and what to install where it is missing
"""
