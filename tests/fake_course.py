"""Notebooks made for a test."""

from pathlib import Path

import nbformat

PARAMETERS = 'preset: str = "quick"   # smoke | quick | paper\nseed: int = 0   # of everything'


def make_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    new = nbformat.v4
    metadata = {"kernelspec": {"name": "python3", "display_name": "-", "language": "python"}}
    notebook = new.new_notebook(metadata=metadata)
    notebook.cells.append(new.new_markdown_cell(f"# Title of {path.stem}\n\n## Not this one"))
    if parameters:
        notebook.cells.append(new.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [new.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
