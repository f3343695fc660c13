from .growth import grow
from .retrofit import freeze_base, retrofit, unretrofit
from .retrofit_folder import load_retrofitted, save_retrofitted

__all__ = ["freeze_base", "grow", "load_retrofitted", "retrofit", "save_retrofitted", "unretrofit"]
