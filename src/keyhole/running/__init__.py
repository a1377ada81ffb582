"""What a job does around its one call: inputs, networks, outcomes, origins."""
