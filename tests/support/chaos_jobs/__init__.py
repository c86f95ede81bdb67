"""Job types to break things with; the stack of the chaos tests loads them by JOB_PACKAGES.

Those in `effects` write a row into the table `effect` in their completion transaction: exactly one for each
success, or the promise is broken. Those in `crashes` do harm. The others have nothing but their result.
"""
