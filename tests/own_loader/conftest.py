"""Guests, as the other guest tests have them."""

from tests.guest.conftest import room

__all__ = ["room"]
