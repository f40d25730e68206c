"""The figures of the course.

Every figure function takes arrays and returns the matplotlib Axes that it drew on. ``show`` displays a
finished figure together with its caption.
"""

from kdnb.viz.association import (
    association_by_class,
    association_by_class_over_steps,
    association_of_picture,
    association_over_steps,
    entropy_over_steps,
)
from kdnb.viz.depths import accuracy_against_costs, depth_at_work, ledger_staircase
from kdnb.viz.figures import (
    curves,
    effect_panels,
    gradient_ledger,
    paired_effects,
    paired_runs,
    picture_grid,
    similarity_maps,
    soft_label_bars,
)
from kdnb.viz.judges import dots_by_row, flow_diagram, srrl_flow
from kdnb.viz.leaving import drawn_numbers, leave
from kdnb.viz.lessons import who_teaches_whom
from kdnb.viz.links import expert_weights, linked_block, merged_graph, returned_gradients
from kdnb.viz.live import Progress
from kdnb.viz.maps import diversity_steps, map_overlays, map_rows, score_strips, shift_maps
from kdnb.viz.matrices import class_matrices, layer_heatmaps
from kdnb.viz.planes import loss_planes
from kdnb.viz.style import COLOURS, MARKERS, show

__all__ = [
    "COLOURS",
    "MARKERS",
    "Progress",
    "accuracy_against_costs",
    "association_by_class",
    "association_by_class_over_steps",
    "association_of_picture",
    "association_over_steps",
    "class_matrices",
    "curves",
    "depth_at_work",
    "diversity_steps",
    "dots_by_row",
    "drawn_numbers",
    "effect_panels",
    "entropy_over_steps",
    "expert_weights",
    "flow_diagram",
    "gradient_ledger",
    "layer_heatmaps",
    "leave",
    "ledger_staircase",
    "linked_block",
    "loss_planes",
    "map_overlays",
    "map_rows",
    "merged_graph",
    "paired_effects",
    "paired_runs",
    "picture_grid",
    "returned_gradients",
    "score_strips",
    "shift_maps",
    "show",
    "similarity_maps",
    "soft_label_bars",
    "srrl_flow",
    "who_teaches_whom",
]
