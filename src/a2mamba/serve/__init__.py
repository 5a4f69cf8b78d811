"""A local web page that classifies, segments, detects and explains with networks chosen when it is started."""
