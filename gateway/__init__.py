"""The gateway: the HTTP surface, a request's life, and the loop that feeds the planner and obeys it.

It touches no tensor and no pixel, and imports neither torch nor diffusers. What to read first: `service`
(how the parts are put together and taken apart), `loop` (the engine), `lifecycle` (the table of states).
"""
