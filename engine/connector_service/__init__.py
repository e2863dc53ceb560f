"""Serves connectors over gRPC, to control planes of Flyte 2 and Flyte 1 alike.

::

    server     sockets, TLS, health, reflection, drain         CLI: propfan connector serve
      v2, v1   the services of each Flyte, in terms of
      dispatch   one call: which connector, how long, what status its end has
        hosts      a connector in a thread with an event loop of its own
          loading    what is offered, and what it is made with (http, secrets)
"""
