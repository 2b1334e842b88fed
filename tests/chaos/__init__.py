"""What Syncline survives: kills at random moments, full disks, frozen and cut-off processes."""
