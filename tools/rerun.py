"""Measure again what a record of a page holds: run its notebook with only those slow cells that write that record.

    python tools/rerun.py nbs/experiments/stages.ipynb probe_stages
    python tools/rerun.py nbs check    # whether all records of a folder's pages could be, as far as names tell
"""
import ast, builtins, os, re, symtable, sys
from importlib import import_module
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

def cells_to_run(nb, wanted):
    "Those that run when some slow cells are wanted"
    return [c for c in nb.cells if not skipped(c) and (not is_slow(c) or c in wanted)]

def defined(source):
    "Names that a cell gives the cells after it, and some more"
    nodes = [*ast.walk(ast.parse(source))]
    found = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    found |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    imports = [(n, a) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names]
    found |= {a.asname or a.name.split('.')[0] for _, a in imports}
    return found.union(*(dir(import_module(n.module)) for n, a in imports if a.name == '*'))

def used(table):
    "Names that a cell takes from elsewhere"
    outer = table.get_type() == 'module'
    found = {s.get_name() for s in table.get_symbols() if s.is_global() or outer and s.is_referenced()}
    return found.union(*map(used, table.get_children()))

def missing_names(nb, name):
    "Names that the slow cells of a record use and no cell that would run defines"
    wanted, known = wanted_cells(nb, name), {*dir(builtins)}
    for cell in cells_to_run(nb, wanted): known |= defined(cell.source)
    return sorted({n for c in wanted for n in used(symtable.symtable(c.source, name, 'exec'))} - known)

def check_all(folder):
    "Exit with a list unless the slow cells of every record have their names"
    faults = records = 0
    for path in sorted(folder.rglob('*.ipynb')):
        nb = read_nb(path)
        slow = '\n'.join(c.source for c in nb.cells if is_slow(c))
        names = re.findall(r"runs/(\w+)\.json|'((?:transfer|pretrain)_\w+)'", slow)
        for name in sorted({a or b for a, b in names}):
            records += 1
            missing = missing_names(nb, name)
            if missing: print(f'{path.name}, {name}: no cell that would run defines {missing}')
            faults += bool(missing)
    print(f'{records} records, {faults} cannot be measured again')
    if faults or not records: sys.exit(1)

@call_parse
def main(
    notebook:str, # Path of the notebook
    name:str, # Of the record, as `speed_training`; 'all' for every slow cell
):
    "Run a notebook with the slow cells that name a record; keep the outputs of all cells that ran"
    path = Path(notebook).resolve()
    if path.is_dir() and name == 'check': return check_all(path)
    if not path.is_file(): sys.exit(f'rerun: no file {notebook!r}: give the path of a notebook, as nbs/08_data.ipynb')
    nb = read_nb(path)
    wanted = wanted_cells(nb, name)
    if not wanted:
        sys.exit(f'rerun: no slow cell of {path.name} names {name!r}: '
                 'give the name of a record, as it stands in a cell marked `#| slow`')
    if missing := missing_names(nb, name): sys.exit(f'rerun: no cell that would run defines {missing}')
    os.chdir(path.parent)  # a page names its records from its own folder
    shell = CaptureShell(path=str(path.parent), mpl_format='png')
    for cell in cells_to_run(nb, wanted):
        cell.outputs = []
        shell.cell(cell)
        write_nb(nb, path)
        if bad := [o for o in cell.outputs if o.get('output_type') == 'error']:
            sys.exit(f'rerun: the cell {cell.source[:60]!r} failed:\n' + '\n'.join(bad[0]['traceback']))
