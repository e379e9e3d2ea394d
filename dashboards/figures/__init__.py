"""Figures of a report as inline SVG: each a pure function from a part's facts to panels."""
