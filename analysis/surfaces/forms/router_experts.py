"""Routers that differ in all that experts do, over one law of dense models."""

from analysis.surfaces.routers import routed

FORM = routed(
    name="router_experts",
    formula="L = L0 + K N^-a (E'_r/E'_r(1))^-b_r of router r, E_start and E_max by router",
    source="laws/forms/clark_floor.py, with all parameters of experts by router",
    by_router=("E_start", "E_max", "b"),
)
