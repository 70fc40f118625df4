"""The steps of the pipeline, in order; none imports another. `docs/flow.md` draws it.

=============  ==============================  ==============
step           takes                           returns
=============  ==============================  ==============
reading        files                           Rows
chunking       Rows                            Chunk
pairing        Chunk                           Pairs
windowing      Pairs                           Windows
batching       Windows                         PaddedBatch
scoring        PaddedBatch                     BatchLogits
decoding       BatchLogits                     PairAnswers
pairing        PairAnswers                     AnsweredChunk
writing        AnsweredChunk                   Arrow batches
=============  ==============================  ==============
"""
