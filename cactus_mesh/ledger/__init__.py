"""The contract's rules, the embedded development ledger that runs them, and the client that speaks to either."""
