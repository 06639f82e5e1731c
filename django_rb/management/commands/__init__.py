"""manage.py rb_…"""
