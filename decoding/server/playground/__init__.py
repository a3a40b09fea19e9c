"""The playground: a page that shows how tokens are drawn, served with its script and style sheet."""
