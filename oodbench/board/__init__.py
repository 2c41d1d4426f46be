"""One page to look at: all leaderboards as a static html file that needs no network."""
