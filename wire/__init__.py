"""What travels between processes on a node: messages, their codec, sockets, and handoff files as bytes.

No policy is here and no torch: a reader of this package learns what is said, never why.
"""
