"""What each kind of stage computes, one file per kind."""
