"""Tables: what they hold, which rows a fold takes, and the submission that answers them."""
