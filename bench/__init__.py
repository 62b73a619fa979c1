"""Shows and measures what the rest does, from outside: over HTTP, from the journal, and by the clock.

`python -m bench demo` is the tour, `overhead` compares serving with a plain loop, `simulate` compares
policies on a fleet under a virtual clock, `render` turns raw results into tables. Nothing imports this
package.
"""
