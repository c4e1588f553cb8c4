"""From a request to the problems that answer it: pure, finished before anything is submitted."""
