"""What answers here, and is it well?"""
