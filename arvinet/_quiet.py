"""Imports TensorFlow without its start-up messages: `import arvinet._quiet` goes before `import tensorflow`.

TensorFlow 2.21 writes notes to file descriptor 2 while it is imported, before `TF_CPP_MIN_LOG_LEVEL` is heeded, and an
error where it looks for a GPU and finds no driver, which most machines of our users do not have. So both happen here, in
silence; with `TF_CPP_MIN_LOG_LEVEL` at 0 or 1 nothing is held back, and if the import fails, all that was written is shown."""
import os, sys, tempfile

def _import_tensorflow():
    if 'tensorflow' in sys.modules or os.environ['TF_CPP_MIN_LOG_LEVEL'] in ('0', '1'): return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        done = False
        try:
            import tensorflow
            tensorflow.config.list_physical_devices('GPU')
            done = True
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if not done:
                notes.seek(0)
                os.write(2, notes.read())

_import_tensorflow()
