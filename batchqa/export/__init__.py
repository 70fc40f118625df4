"""Making models: a checkpoint becomes a bundle that is verified, small and fast.

::

    extras.py         the extra `export`: what is imported, and what to install where it is missing
    architectures.py  which architectures can be exported
    checkpoint.py     MODEL -> a checkpoint that is what it should be; hub ids; pickles in a child process
    graphs.py         checkpoint -> ONNX graph; fused attention; float16
    editing.py        an ONNX graph, taken apart and put together again
    quantize.py       matrices as int8, rounded well; the graph that computes in float32 with them
    smoothquant.py    large channels divided, and their weights multiplied, before both are rounded
    per_token_int8.py onnxruntime's graph with int8 products, each token scaled by itself
    static_scales.py  which activations can do with one scale for all tokens
    last_layer.py     the last layer of BERT's kind in a graph: found, and replaced
    smaller_last_layer.py  which of its neurons and channels the logits need
    attention_openvino.py  attention in the operators that OpenVINO is fastest with
    int8_openvino.py  OpenVINO's graph with int8 products, static scales or one per token
    builtin_passages.py  the package's own texts: plainly answerable and plainly unanswerable pairs
    verify.py         each variant beside the PyTorch original, on the road itself
    abstention.py     whether a model was trained to say "no answer"
    card.py           the model card
    figures.py        how good a bundle's answers are, for its card
    exporting.py      all of it in order: `export`, and `ensure_cached` for `run --model org/name`
    threshold.py      the no-answer threshold, fitted on training data
"""
