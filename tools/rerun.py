"""Measure again what a record of a page holds: run its notebook with only those slow cells that write that record.

    python tools/rerun.py nbs/experiments/stages.ipynb probe_stages
"""
import os, re, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.script import call_parse

def directives(cell): return re.findall(r'^#\| *([^\n]+?) *$', cell.source, re.M)

def is_slow(cell): return cell.cell_type == 'code' and 'slow' in directives(cell)

def skipped(cell):
    "Whether a cell has no part in a page"
    no_part = any(d.startswith(('default_exp', 'eval: false')) for d in directives(cell))
    return cell.cell_type != 'code' or no_part or 'nbdev_export()' in cell.source

def wanted_cells(nb, name):
    "The slow cells that name a record"
    return [c for c in nb.cells if is_slow(c) and (name == 'all' or name in c.source)]

@call_parse
def main(
    notebook:str, # Path of the notebook
    name:str, # Of the record, as `speed_training`; 'all' for every slow cell
):
    "Run a notebook with the slow cells that name a record; keep the outputs of all cells that ran"
    path = Path(notebook).resolve()
    if not path.is_file(): sys.exit(f'rerun: no file {notebook!r}: give the path of a notebook, as nbs/07_data.ipynb')
    nb = read_nb(path)
    wanted = wanted_cells(nb, name)
    if not wanted:
        sys.exit(f'rerun: no slow cell of {path.name} names {name!r}: '
                 'give the name of a record, as it stands in a cell marked `#| slow`')
    os.chdir(path.parent)  # a page names its records from its own folder
    shell = CaptureShell(path=str(path.parent), mpl_format='png')
    for i, cell in enumerate(nb.cells):
        if skipped(cell) or is_slow(cell) and cell not in wanted: continue
        cell.outputs = []
        shell.cell(cell)
        write_nb(nb, path)
        if bad := [o for o in cell.outputs if o.get('output_type') == 'error']:
            sys.exit(f'rerun: cell {i} failed:\n' + '\n'.join(bad[0]['traceback']))
