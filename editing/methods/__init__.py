"""Methods of editing, one module each: every one turns groups of requests into changes of weights."""
