"""From any annotation to pictures with known and unknown labels, their splits and their pixels."""
