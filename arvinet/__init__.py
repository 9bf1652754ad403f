"""The small-image backbone for Keras. TensorFlow is imported when a name below is first used."""
__version__ = "0.1.0"

import importlib, os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')   # errors only; set it to '0' for TensorFlow's own chatter
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')  # kernels that train faster; on some processors TensorFlow leaves them off

_homes = {
    'architecture': ['ArviNet', 'registry', 'stage_outputs'],
    'data': ['Augment', 'Dataset', 'batches', 'from_arrays', 'from_folder', 'load'],
    'packaging': ['export', 'fold', 'load_exported', 'model_card', 'push_to_hub', 'stock'],
    'interpretation': ['Interpretation', 'grad_cam', 'interpret', 'occlusion'],
    'pretraining': ['RECIPES', 'Recipe', 'pretrain'],
    'transfer': ['Classifier', 'compare', 'features', 'few_shot', 'load_classifier'],
}
_home = {name: module for module, names in _homes.items() for name in names}

def __getattr__(name):
    if name in _homes: return importlib.import_module(f'{__name__}.{name}')
    if name not in _home: raise AttributeError(f"module 'arvinet' has no attribute {name!r}; it has {', '.join(sorted(_home))}")
    return getattr(importlib.import_module(f'{__name__}.{_home[name]}'), name)

def __dir__(): return sorted([*globals(), *_homes, *_home])
