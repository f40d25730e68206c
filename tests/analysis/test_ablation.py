import numpy as np
import pandas as pd

from kdnb.analysis import network_depths, variant_names


def test_variants_are_named_by_what_is_not_the_methods_default():
    """Options of other methods are NaN in the table, and make whole numbers floats."""
    records = pd.DataFrame(
        [
            {"method": "ffsd", "students": 2.0, "diversity": "shift", "weight": 1e-5},
            {"method": "ffsd", "students": 3.0, "diversity": "none", "weight": 1.0},
            {"method": "labels-only", "students": np.nan, "diversity": np.nan, "weight": np.nan},
        ]
    )
    defaults = {"ffsd": {"students": 2, "diversity": "shift", "weight": 1e-5}, "labels-only": {}}
    expected = ["ffsd", "ffsd, students 3, diversity none, weight 1", "labels-only"]
    assert variant_names(records, defaults) == expected


def test_depths_are_a_sub_nets_own_or_its_students():
    rows = [
        ("resnet20", "full", 20),
        ("resnet20", "depth14", 14),
        ("resnet8", "student", 8),
        ("resnet20", "exit2", None),
        ("googlenet", "student", None),
    ]
    records = pd.DataFrame(rows, columns=["student", "learner", "depth"])
    assert network_depths(records) == [depth for *_, depth in rows]
