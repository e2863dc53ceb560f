"""The mutating admission webhook that gives pods the secrets that they ask for.

``admission`` reads the API server's questions, ``managers`` find where a secret is, ``mirrors`` bring it into the pod's
namespace, ``injection`` changes the pod. ``authority`` makes certificates, ``registration`` keeps them and tells the
API server of the webhook, ``serving`` listens.
"""
