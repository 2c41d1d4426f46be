"""MultiOOD (arXiv:2405.17419): actions on video, as optical flow and in sound.

In the layouts that MultiOOD publishes, below ``<data>/multiood``; nothing is downloaded when a
benchmark is loaded. ``oodbench data prepare multiood`` fetches the split files, and says what else
is needed and where it goes.

Near-OOD: half of a dataset's classes against the other half. Far-OOD: a dataset against others,
without the classes that they share. Datasets named ``multiood-*`` have video and flow, those that
end in ``-audio`` sound as well, those without that prefix video alone.

Post-hoc detectors have their own settings unless ``--preset multiood`` asks for those of MultiOOD's
evaluation (:func:`posthoc_preset`): k 50 instead of 10, a covariance that is shrunk where there are
fewer samples than twice the features, instead of never, ViM by its paper's rule (512 dimensions of
ours) instead of 256, GEN at most 100 classes instead of all, ReAct one percentile of all training
activations and ASH-B one share of all, instead of one for each modality (ReAct's of validation
activations).

Differs from MultiOOD, with that preset too: (1) a clip is chosen among all frames of a video; there
(but for EPIC-Kitchens) among all but the last, and each frame shown is the one before the chosen
one (of the first, itself), so that clips begin one or two frames earlier; (2) frames are resized
with antialiasing, there without, and in training a crop is resized once from the frame as stored,
there from the frame brought to a short side of 256 first; (3) detectors are fitted on the train
split of Kinetics-600 as of all others, there on its val split; (4) AUPR is average precision, there
the area by trapezoids (``oodbench.metrics.aupr_trapezoid``), which differs where scores are tied;
(5) kNN's distance is the root of the one there, which ranks alike; (6) the sound of Kinetics-600 is
the whole recording (10 s), there the seconds of the video's clip alone (its first to its last frame
at 24 frames per second, 2.6 s), repeated to 10 s, which in training move with the random clip; (7)
with sound, ReAct's thresholds of Kinetics-600 are of the embeddings of video, flow and sound, there
(by the name of the file that is read) of video and flow alone, so that those of sound are of the
flow. How networks are trained, and which, is described in ``oodbench.detectors._multiood``.

Labels of an OOD set are numbered from 0 in the order of the published ones, which have gaps or
begin at the number of ID classes.
"""
