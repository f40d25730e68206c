"""Measures of what networks learned: the numbers that the figures of the course show."""

from kdnb.analysis.ablation import network_depths, variant_names
from kdnb.analysis.association import (
    association_bounds,
    association_by_class,
    lowest_relative_entropy,
    relative_entropy,
)
from kdnb.analysis.batch_norm import batch_norm_gap
from kdnb.analysis.classes import class_similarity, logit_similarity, sibling_share, siblings_found
from kdnb.analysis.gradcam import grad_cam
from kdnb.analysis.links import link_agreement, link_norms, link_share
from kdnb.analysis.maps import centre_maps, edge_maps, normalised, uniform_maps
from kdnb.analysis.places import Place, effective_places, map_places, placed
from kdnb.analysis.scores import iou_at_equal_area, map_scores, mass_inside, mass_on_others, pointing_game
from kdnb.analysis.similarity import attention_cosine, cka_matrix, linear_cka, pairs_by_stage, raw_cosine
from kdnb.analysis.statistics import Interval, holm, paired_difference

__all__ = [
    "Interval",
    "Place",
    "association_bounds",
    "association_by_class",
    "attention_cosine",
    "batch_norm_gap",
    "centre_maps",
    "cka_matrix",
    "class_similarity",
    "edge_maps",
    "effective_places",
    "grad_cam",
    "holm",
    "iou_at_equal_area",
    "linear_cka",
    "link_agreement",
    "link_norms",
    "link_share",
    "logit_similarity",
    "lowest_relative_entropy",
    "map_places",
    "map_scores",
    "mass_inside",
    "mass_on_others",
    "network_depths",
    "normalised",
    "paired_difference",
    "pairs_by_stage",
    "placed",
    "pointing_game",
    "raw_cosine",
    "relative_entropy",
    "sibling_share",
    "siblings_found",
    "uniform_maps",
    "variant_names",
]
