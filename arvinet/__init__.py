"""The small-image backbone for Keras. TensorFlow is imported when a name below is first used."""
__version__ = "0.1.0"

import importlib, os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')   # errors only; set it to '0' for TensorFlow's own chatter
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')  # kernels that train faster, off by default on some processors

_homes = {  # module: the names that `from arvinet import NAME` finds in it
    'core': [],
    'layers': [],
    'weights': ['registry'],
    'architecture': ['ArviNet', 'stage_outputs'],
    'folders': [],
    'preparation': ['Preparation'],
    'splits': [],
    'catalogue': [],
    'data': ['Dataset', 'from_arrays', 'from_folder', 'load'],
    'augmentation': ['Augment', 'batches'],
    'optimizer': [],
    'recipe': ['RECIPES', 'Recipe'],
    'checkpoint': [],
    'pretraining': ['arvinet_pretrain', 'pretrain'],
    'classifier': ['Classifier', 'arvinet_predict', 'load_classifier'],
    'features': ['arvinet_features'],
    'transfer': [],
    'comparison': ['arvinet_transfer', 'compare', 'feature_probes', 'few_shot'],
    'quantisation': [],
    'export': ['arvinet_export', 'load_exported', 'stock'],
    'packaging': ['arvinet_card', 'model_card', 'push_to_hub'],
    'drawing': [],
    'saliency': ['grad_cam', 'occlusion'],
    'explanation': ['arvinet_explain'],
    'interpretation': ['Interpretation', 'interpret'],
    'neighbours': [],
}
_home = {name: module for module, names in _homes.items() for name in names}
__all__ = [*_home]  # what `from arvinet import *` brings

def __getattr__(name):
    "A module of the package, or a name from one, imported when it is first asked for"
    if name in _homes: return importlib.import_module(f'{__name__}.{name}')
    if name in _home: return getattr(importlib.import_module(f'{__name__}.{_home[name]}'), name)
    raise AttributeError(f"module 'arvinet' has no attribute {name!r}; it has {', '.join(sorted({*_homes, *_home}))}")

def __dir__(): return sorted({*globals(), *_homes, *_home})
