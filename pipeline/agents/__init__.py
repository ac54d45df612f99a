"""The research agents: the web, papers, forums and files. Each turns questions into findings, and what it could not have into gaps; none writes anything down."""
