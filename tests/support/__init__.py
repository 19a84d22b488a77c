"""What tests share: cases, oracles, stand-ins. No test imports a test."""
