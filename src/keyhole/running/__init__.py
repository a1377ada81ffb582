"""The steps of a job before and after it calls a method: read inputs, build networks, record outcomes and origins."""
