"""What two or more of the agents share."""
