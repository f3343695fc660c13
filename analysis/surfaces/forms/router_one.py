"""All routers alike: what a law says that does not know the router."""

from analysis.surfaces.routers import routed

FORM = routed(
    name="router_one",
    formula="L = L0 + K N^-a (E'/E'(1))^-b",
    source="laws/forms/clark_floor.py, of all routers together",
    by_router=(),
)
