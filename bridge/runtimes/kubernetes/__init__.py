"""The runtime `kubernetes`: sandboxes as pods of a cluster whose kubelet runs on this node.

`api` alone imports the cluster client and speaks JSON objects; all else here works on those.
"""
