"""The miner: verbs over table parts, run by Apache Beam or as plain loops."""
