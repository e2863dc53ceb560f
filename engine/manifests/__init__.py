"""What a cluster needs for ``propfan serve``: the resource definition, rights, and the daemon itself."""
