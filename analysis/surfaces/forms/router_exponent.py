"""Routers that differ in the exponent of experts alone."""

from analysis.surfaces.routers import routed

FORM = routed(
    name="router_exponent",
    formula="L = L0 + K N^-a (E'/E'(1))^-b_r of router r",
    source="laws/forms/clark_floor.py, with the exponent of experts by router",
    by_router=("b",),
)
