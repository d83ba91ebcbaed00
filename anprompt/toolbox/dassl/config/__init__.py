from dassl.config.defaults import cfg_default, clean_cfg, get_cfg_default

__all__ = ["cfg_default", "clean_cfg", "get_cfg_default"]
