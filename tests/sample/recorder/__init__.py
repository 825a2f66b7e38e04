"""What record.py is made of: a lab of network namespaces, its wire, its services, the activities, the captures."""
