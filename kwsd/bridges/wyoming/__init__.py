"""`kwsd wyoming`: a wake service for Home Assistant and for satellites that stream audio."""
