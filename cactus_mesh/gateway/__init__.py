"""An HTTP gateway that speaks OpenAI's API: whatever talks to OpenAI can talk to the mesh.

`server.open_gateway` serves one client; nothing here knows how the mesh does its work.
"""
