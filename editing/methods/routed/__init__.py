"""Editors whose edits a router finds: what lies in their memories, their routers, and how these are measured."""
