//! Events → hash-chained log, one JSON line each.
