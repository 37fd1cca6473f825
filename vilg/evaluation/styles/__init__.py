"""Measures on the data set of eleven styles: does a model combine things and styles that it has seen only apart?"""
