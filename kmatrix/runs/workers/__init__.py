"""Other machines as workers of pytest-xdist: reached by SSH, told apart by what they can run, given what a run takes, once.

`address` reads where a worker is, `link` speaks with it, `there` answers on its side, `describe` says what it has, `judge` what it lacks.
`parcel` and `project` say what a run takes, `deliver` brings it. `plan` decides who runs which cell.
"""
